{{- define "thalweg.labels" -}}
app.kubernetes.io/part-of: thalweg
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "thalweg.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- /* What the hub's configuration declares: the very files of the top folder. */ -}}
{{- define "thalweg.services" -}}
{{ .Files.Get "files/hub-config/services.yaml" }}
{{- end }}

{{- define "thalweg.groups" -}}
{{ .Files.Get "files/hub-config/groups.yaml" }}
{{- end }}

{{- /* Groups with a Lab: a JSON list under the key `names`, in the order of groups.yaml. */ -}}
{{- define "thalweg.labGroups" -}}
{{- $names := list }}
{{- range $name, $group := include "thalweg.groups" . | fromYaml }}
{{- if $group.lab }}{{ $names = append $names $name }}{{ end }}
{{- end }}
{{- dict "names" $names | toJson }}
{{- end }}

{{- define "thalweg.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "thalweg.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The environment in which the library finds the data: the cluster's side of
       thalweg.hub.environment.data_environment. */ -}}
{{- define "thalweg.environment" -}}
AWS_DEFAULT_REGION: {{ .Values.aws.region }}
AWS_REGION: {{ .Values.aws.region }}
AWS_EC2_METADATA_DISABLED: "true"
THALWEG_HOME: /srv/thalweg
THALWEG_DATA_DIR: /var/lib/thalweg
THALWEG_RAW_URI: s3://{{ .Values.storage.rawBucket }}
THALWEG_RUNS_URI: s3://{{ .Values.storage.runsBucket }}
THALWEG_GRIDDED_URI: s3://{{ .Values.storage.griddedBucket }}
THALWEG_WAREHOUSE: thalweg
THALWEG_LAUNCHER: kubernetes
THALWEG_IMAGE: {{ include "thalweg.image" . }}
THALWEG_NAMESPACE: {{ .Release.Namespace }}
{{- range $name, $value := .Values.settings }}
THALWEG_{{ upper $name }}: {{ $value | quote }}
{{- end }}
PYICEBERG_CATALOG__THALWEG__TYPE: rest
{{- if eq .Values.catalogue.kind "glue" }}
PYICEBERG_CATALOG__THALWEG__URI: https://glue.{{ .Values.aws.region }}.amazonaws.com/iceberg
PYICEBERG_CATALOG__THALWEG__WAREHOUSE: {{ .Values.catalogue.accountId | quote }}
PYICEBERG_CATALOG__THALWEG__REST__SIGV4_ENABLED: "true"
PYICEBERG_CATALOG__THALWEG__REST__SIGNING_NAME: glue
PYICEBERG_CATALOG__THALWEG__REST__SIGNING_REGION: {{ .Values.aws.region }}
{{- else }}
PYICEBERG_CATALOG__THALWEG__URI: {{ include "thalweg.catalogueUri" . }}
PYICEBERG_CATALOG__THALWEG__WAREHOUSE: s3://{{ .Values.storage.warehouseBucket }}
{{- end }}
PYICEBERG_CATALOG__THALWEG__S3__REGION: {{ .Values.aws.region }}
{{- end }}

{{- define "thalweg.catalogueUri" -}}
{{ .Values.catalogue.server.enabled | ternary "http://iceberg:8181/catalog" .Values.catalogue.uri }}
{{- end }}

{{- /* The URL of the metadata database, of the secret's key `url` or, for people, `lab-url`. */ -}}
{{- define "thalweg.databaseUrl" -}}
valueFrom:
  secretKeyRef: {name: {{ index . 0 }}, key: {{ index . 1 }}, optional: {{ eq (index . 1) "lab-url" }}}
{{- end }}

{{- define "thalweg.env" -}}
- name: HOME
  value: /tmp
- name: THALWEG_DATABASE_URL
  {{- include "thalweg.databaseUrl" (list .Values.database.existingSecret "url") | nindent 2 }}
{{- end }}

{{- /* A top folder's files under keys that a ConfigMap may have: (list . folder). */ -}}
{{- define "thalweg.items" -}}
{{- $prefix := printf "files/%s/" (index . 1) }}
{{- range $path, $_ := (index . 0).Files.Glob (printf "%s**" $prefix) }}
{{- $name := trimPrefix $prefix $path }}
- {key: {{ $name | replace "/" "__" }}, path: {{ $name }}}
{{- end }}
{{- end }}

{{- /* Volumes with the top folders, under /srv/thalweg: (list . folder …). */ -}}
{{- define "thalweg.folders" -}}
{{- $root := first . }}
{{- range $folder := rest . }}
- name: {{ base $folder }}
  configMap:
    name: thalweg-{{ base $folder }}
    items: {{- include "thalweg.items" (list $root $folder) | nindent 6 }}
{{- end }}
{{- end }}

{{- define "thalweg.volumes" -}}
{{- include "thalweg.folders" (list . "catalogs" "pipelines" "dashboards") }}
{{ include "thalweg.volumesScratch" . }}
{{- end }}

{{- define "thalweg.volumesScratch" -}}
- {name: tmp, emptyDir: {}}
- {name: state, emptyDir: {}}
{{- end }}

{{- define "thalweg.mounts" -}}
- {name: catalogs, mountPath: /srv/thalweg/catalogs, readOnly: true}
- {name: pipelines, mountPath: /srv/thalweg/pipelines, readOnly: true}
- {name: dashboards, mountPath: /srv/thalweg/dashboards, readOnly: true}
{{ include "thalweg.mountsScratch" . }}
{{- end }}

{{- define "thalweg.mountsScratch" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /var/lib/thalweg}
{{- end }}

{{- /* A pod of the chart's own, without its containers and volumes: (list . service-account). */ -}}
{{- define "thalweg.pod" -}}
serviceAccountName: thalweg-{{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false  # THALWEG_… in the environment are settings
securityContext: {{- include "thalweg.podSecurity" . | nindent 2 }}
{{- with (index . 0).Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Workers go to nodes for workers, where there are such: Terraform makes them of spot instances. */ -}}
{{- define "thalweg.workers" -}}
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        preference:
          matchExpressions: [{key: hub.jupyter.org/node-purpose, operator: In, values: [worker]}]
tolerations: [{key: hub.jupyter.org/dedicated, operator: Equal, value: worker}]
{{- end }}

{{- /* A container of the one image: name, image, environment. */ -}}
{{- define "thalweg.container" -}}
image: {{ include "thalweg.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "thalweg.containerSecurity" . | nindent 2 }}
envFrom: [{configMapRef: {name: thalweg-environment}}]
{{- end }}

{{- /* Pods that use new files are started anew. */ -}}
{{- define "thalweg.checksum" -}}
{{- /* Not AsConfig, which keeps one file of each name. */ -}}
{{- $files := dict }}
{{- range $folder := list "catalogs" "pipelines" "dashboards" }}
{{- range $path, $content := $.Files.Glob (printf "files/%s/**" $folder) }}
{{- $_ := set $files $path (toString $content) }}
{{- end }}
{{- end }}
checksum/files: {{ print (toJson $files) (include "thalweg.environment" .) | sha256sum }}
{{- end }}
