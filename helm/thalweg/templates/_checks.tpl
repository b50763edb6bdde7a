{{- /* What cannot be right is refused: what is wrong, and what to do. Key by key; the first one is told. */ -}}
{{- define "thalweg.refuse" -}}
{{- fail (printf "\n\nthalweg: %s\n" .) }}
{{- end }}

{{- define "thalweg.checks" -}}
{{- $v := .Values }}
{{- $image := include "thalweg.image" . }}
{{- if not $v.host }}{{ include "thalweg.refuse" "host is empty: set it to the name under which people reach the hub, as hub.example.org" }}{{ end }}
{{- if contains "://" $v.host }}{{ include "thalweg.refuse" (printf "host is %q: expected a name without https:// and path" $v.host) }}{{ end }}
{{- if not $v.aws.region }}{{ include "thalweg.refuse" "aws.region is empty: set it to the region of the buckets, as us-east-1" }}{{ end }}
{{- if and $v.aws.efsId $v.components.jupyterhub (eq $v.jupyterhub.singleuser.storage.type "dynamic") }}
{{- $class := $v.jupyterhub.singleuser.storage.dynamic.storageClass }}
{{- if ne (toString $class) "thalweg-homes" }}{{ include "thalweg.refuse" (printf "aws.efsId is %s, and jupyterhub.singleuser.storage.dynamic.storageClass is %v: set it to thalweg-homes, or homes would lie elsewhere, in one zone and without a backup" $v.aws.efsId $class) }}{{ end }}
{{- end }}
{{- range $name, $bucket := $v.storage }}
{{- if not (or $bucket (eq $name "usersBucket")) }}{{ include "thalweg.refuse" (printf "storage.%s is empty: set it to the name of a bucket (terraform output)" $name) }}{{ end }}
{{- if hasPrefix "s3://" $bucket }}{{ include "thalweg.refuse" (printf "storage.%s is %q: expected the bucket's name without s3://" $name $bucket) }}{{ end }}
{{- end }}
{{- if not $v.database.existingSecret }}{{ include "thalweg.refuse" "database.existingSecret is empty: make a secret with the keys url, hub-url, lab-url and postgresql-password, and name it" }}{{ end }}

{{- /* one image */ -}}
{{- if eq $v.image.tag "latest" }}{{ include "thalweg.refuse" "image.tag is latest, which is another image tomorrow: set it to a version, as 0.1.0" }}{{ end }}
{{- $named := dict }}
{{- if $v.components.jupyterhub }}
{{- $_ := set $named "jupyterhub.singleuser.image" (printf "%s:%v" $v.jupyterhub.singleuser.image.name $v.jupyterhub.singleuser.image.tag) }}
{{- end }}
{{- if $v.components.dask }}
{{- with index $v "dask-gateway" "gateway" "backend" "image" }}{{ $_ := set $named "dask-gateway.gateway.backend.image" (printf "%s:%v" .name .tag) }}{{ end }}
{{- end }}
{{- if $v.components.dagster }}
{{- range $part := list "dagsterWebserver" "dagsterDaemon" "pipelineRun" }}
{{- with index $v.dagster $part "image" }}{{ $_ := set $named (printf "dagster.%s.image" $part) (printf "%s:%v" .repository .tag) }}{{ end }}
{{- end }}
{{- range $v.dagster.dagsterWebserver.extraContainers }}
{{- if eq .name "login" }}{{ $_ := set $named "dagster.dagsterWebserver.extraContainers (login) image" .image }}{{ end }}
{{- end }}
{{- end }}
{{- range $key, $its := $named }}
{{- if ne $its $image }}{{ include "thalweg.refuse" (printf "%s is %s, and image is %s: Lab, Dask, Ray, pipelines and dashboards have one image, or they do not understand each other; give both the same repository and tag" $key $its $image) }}{{ end }}
{{- end }}

{{- /* names that two charts share */ -}}
{{- if $v.components.dagster }}
{{- if not $v.dagster.postgresql.postgresqlHost }}{{ include "thalweg.refuse" "dagster.postgresql.postgresqlHost is empty: set it to the address of the PostgreSQL server (terraform output)" }}{{ end }}
{{- if ne $v.dagster.global.postgresqlSecretName $v.database.existingSecret }}{{ include "thalweg.refuse" (printf "dagster.global.postgresqlSecretName is %q, and database.existingSecret is %q: name the same secret" $v.dagster.global.postgresqlSecretName $v.database.existingSecret) }}{{ end }}
{{- if not $v.components.jupyterhub }}{{ include "thalweg.refuse" "components.dagster is true and components.jupyterhub is false: Dagster's pages have no login without the hub; turn both on or off" }}{{ end }}
{{- end }}
{{- if and $v.components.dask (not $v.components.jupyterhub) }}{{ include "thalweg.refuse" "components.dask is true and components.jupyterhub is false: Dask Gateway asks the hub who a user is; turn both on or off" }}{{ end }}
{{- if $v.components.jupyterhub }}
{{- $secret := $v.jupyterhub.hub.extraEnv.HUB_DATABASE_URL.valueFrom.secretKeyRef.name }}
{{- if ne $secret $v.database.existingSecret }}{{ include "thalweg.refuse" (printf "jupyterhub.hub.extraEnv.HUB_DATABASE_URL reads secret %q, and database.existingSecret is %q: name the same secret" $secret $v.database.existingSecret) }}{{ end }}
{{- range $name, $service := include "thalweg.services" $ | fromYaml }}
{{- if or $service.web (eq $name "dask-gateway") }}
{{- if not (kindIs "map" (index $v.jupyterhub.hub.services $name)) }}{{ include "thalweg.refuse" (printf "hub-config/services.yaml has the service %q, and jupyterhub.hub.services has not: add `%s: {}` there, so that it has a token" $name $name) }}{{ end }}
{{- end }}
{{- end }}
{{- if $v.jupyterhub.cull.enabled }}{{ include "thalweg.refuse" "jupyterhub.cull.enabled is true: the idle culler of hub-config/services.yaml is there already; set settings.idle_timeout instead" }}{{ end }}

{{- /* logins */ -}}
{{- with $v.login }}
{{- if not .clientId }}{{ include "thalweg.refuse" "login.clientId is empty: register the hub where people log in (callback https://HOST/hub/oauth_callback), and give its client id; its secret goes into the secret thalweg-login" }}{{ end }}
{{- if not .groups }}{{ include "thalweg.refuse" "login.groups is empty, so that nobody could log in: name for researchers, stewards or partners the groups of your institution" }}{{ end }}
{{- $known := include "thalweg.groups" $ | fromYaml }}
{{- range $group, $_ := .groups }}
{{- if not (hasKey $known $group) }}{{ include "thalweg.refuse" (printf "login.groups.%s: hub-config/groups.yaml has no such group; it has %s" $group (keys $known | sortAlpha | join ", ")) }}{{ end }}
{{- end }}
{{- if eq .kind "oidc" }}
{{- range $key := list "authorizeUrl" "tokenUrl" "userdataUrl" }}
{{- if not (hasPrefix "https://" (index $v.login.oidc $key)) }}{{ include "thalweg.refuse" (printf "login.oidc.%s is %q: expected an address with https:// (it stands in the provider's .well-known/openid-configuration)" $key (index $v.login.oidc $key)) }}{{ end }}
{{- end }}
{{- else if and (eq .kind "cilogon") (not .cilogon.allowedIdps) }}{{ include "thalweg.refuse" "login.cilogon.allowedIdps is empty: name the identity providers that may vouch for people, each with its username_derivation" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* identities */ -}}
{{- $accounts := concat (include "thalweg.labGroups" . | fromJson).names (list "runs" "dashboards") }}
{{- range $name, $_ := $v.serviceAccounts }}
{{- if not (has $name $accounts) }}{{ include "thalweg.refuse" (printf "serviceAccounts.%s: there is no such account; there are %s" $name (join ", " $accounts)) }}{{ end }}
{{- end }}
{{- $web := list }}
{{- range $name, $service := include "thalweg.services" . | fromYaml }}
{{- if and $service.web (ne $name "pipelines") }}{{ $web = append $web $name }}{{ end }}
{{- end }}
{{- $groups := include "thalweg.groups" . | fromYaml }}
{{- range $name, $service := $v.services }}
{{- if not (has $name $web) }}{{ include "thalweg.refuse" (printf "services.%s: hub-config/services.yaml has no such page; it has %s" $name (join ", " $web)) }}{{ end }}
{{- range $service.groups }}
{{- if not (hasKey $groups .) }}{{ include "thalweg.refuse" (printf "services.%s.groups: hub-config/groups.yaml has no group %q; it has %s" $name . (keys $groups | sortAlpha | join ", ")) }}{{ end }}
{{- end }}
{{- end }}

{{- /* the catalogue and what depends on it */ -}}
{{- with $v.catalogue }}
{{- if eq .kind "glue" }}
{{- if not (regexMatch "^[0-9]{12}$" (toString .accountId)) }}{{ include "thalweg.refuse" (printf "catalogue.accountId is %q: expected the 12 digits of the AWS account, in quotes, whose Glue catalogue holds the tables" (toString .accountId)) }}{{ end }}
{{- if .server.enabled }}{{ include "thalweg.refuse" "catalogue.server.enabled is true and catalogue.kind is glue: set catalogue.kind to rest, or server.enabled to false" }}{{ end }}
{{- else if .server.enabled }}
{{- if not .server.existingSecret }}{{ include "thalweg.refuse" "catalogue.server.existingSecret is empty: make a secret with the keys database-url and encryption-key, and name it" }}{{ end }}
{{- else if not .uri }}{{ include "thalweg.refuse" "catalogue.uri is empty: give the address of an Iceberg REST catalogue, or set catalogue.server.enabled" }}
{{- end }}
{{- end }}
{{- if and (or $v.ray.enabled $v.ray.jobs) (not $v.components.rayOperator) (not (.Capabilities.APIVersions.Has "ray.io/v1")) }}{{ include "thalweg.refuse" "ray.enabled is true or ray.jobs names jobs, and this cluster has no KubeRay: set components.rayOperator to true" }}{{ end }}
{{- with $v.upkeep.backup }}
{{- if and .enabled (or (not .bucket) (hasPrefix "s3://" .bucket)) }}{{ include "thalweg.refuse" (printf "upkeep.backup.bucket is %q: expected the name of the bucket for backups, without s3:// (terraform output backup_bucket)" .bucket) }}{{ end }}
{{- end }}
{{- if and $v.metrics.serviceMonitor (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}{{ include "thalweg.refuse" "metrics.serviceMonitor is true, and this cluster has no Prometheus operator (monitoring.coreos.com/v1): install it first, or set it to false" }}{{ end }}
{{- end }}
