# A role for each service and for each group of people, which pod identity hands to the pods of one
# service account: short-lived credentials, no key anywhere. A role reaches what is named here.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  region  = data.aws_region.this.name
  glue = [for part in ["catalog", "database/${var.catalogue}", "table/${var.catalogue}/*"] :
  "arn:${data.aws_partition.this.partition}:glue:${local.region}:${local.account}:${part}"]
  shared = ["raw", "warehouse", "runs", "gridded"]

  # Groups read what is shared, and own their part of the users' bucket. A person's server, and nothing
  # else, owns the part that bears its name: pod identity tells it with each session, and only the hub
  # makes pods of these accounts with such names.
  groups = { for group in var.groups : "group-${group}" => {
    service_account = "thalweg-${group}"
    read            = local.shared
    write           = []
    delete          = []
    own             = [group, "people/$${aws:PrincipalTag/kubernetes-pod-name}"]
    catalogue       = "read"
    queue           = false
  } }
  roles = merge({ for name, service in var.services : name => merge(service, { own = [] }) }, local.groups)

  # Who writes can make a backup, which names objects by their versions, and bring them back; nobody
  # deletes one.
  backups       = var.backup_bucket == "" ? [] : [var.backup_bucket, "${var.backup_bucket}/*"]
  list_versions = ["s3:ListBucketVersions", "s3:GetBucketVersioning"]

  glue_reads  = ["glue:GetCatalog", "glue:GetDatabase", "glue:GetDatabases", "glue:GetTable", "glue:GetTables"]
  glue_writes = ["glue:CreateTable", "glue:UpdateTable", "glue:DeleteTable"]

  # A statement with nothing to apply to is left out.
  statements = { for name, role in local.roles : name => [for statement in [
    {
      Sid      = "List"
      Effect   = "Allow"
      Action   = concat(["s3:ListBucket", "s3:GetBucketLocation"], length(role.write) > 0 ? local.list_versions : [])
      Resource = [for bucket in role.read : var.bucket_arns[bucket]]
    },
    {
      Sid      = "Read"
      Effect   = "Allow"
      Action   = concat(["s3:GetObject"], length(role.write) > 0 ? ["s3:GetObjectVersion"] : [])
      Resource = [for bucket in role.read : "${var.bucket_arns[bucket]}/*"]
    },
    {
      Sid      = "Write"
      Effect   = "Allow"
      Action   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = [for bucket in role.write : "${var.bucket_arns[bucket]}/*"]
    },
    {
      Sid      = "Delete"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject"]
      Resource = [for bucket in role.delete : "${var.bucket_arns[bucket]}/*"]
    },
    {
      Sid       = "ListOwn"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = length(role.own) > 0 ? [var.bucket_arns["users"]] : []
      Condition = { StringLike = { "s3:prefix" = [for prefix in role.own : "${prefix}/*"] } }
    },
    {
      Sid      = "Own"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = [for prefix in role.own : "${var.bucket_arns["users"]}/${prefix}/*"]
    },
    {
      Sid      = "Backups"
      Effect   = "Allow"
      Action   = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
      Resource = length(role.write) > 0 ? [for bucket in local.backups : "arn:${data.aws_partition.this.partition}:s3:::${bucket}"] : []
    },
    {
      Sid      = "Catalogue"
      Effect   = "Allow"
      Action   = role.catalogue == "write" ? concat(local.glue_reads, local.glue_writes) : local.glue_reads
      Resource = role.catalogue == "none" ? [] : local.glue
    },
    {
      Sid      = "Arrivals"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
      Resource = role.queue ? [var.queue_arn] : []
    },
    {
      Sid       = "Key"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = [var.key_arn]
      Condition = { StringEquals = { "kms:ViaService" = ["s3.${local.region}.amazonaws.com", "sqs.${local.region}.amazonaws.com"] } }
    },
  ] : statement if length(statement.Resource) > 0] }
}

resource "aws_iam_role" "this" {
  for_each             = local.roles
  name                 = "${var.name}-${each.key}"
  max_session_duration = 3600
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = {
        ArnEquals = { "aws:SourceArn" = var.cluster_arn }
        StringEquals = {
          "aws:SourceAccount"                         = local.account
          "aws:RequestTag/kubernetes-namespace"       = var.namespace
          "aws:RequestTag/kubernetes-service-account" = each.value.service_account
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = local.roles
  name     = "data"
  role     = aws_iam_role.this[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = local.statements[each.key] })
}

resource "aws_eks_pod_identity_association" "this" {
  for_each        = local.roles
  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = each.value.service_account
  role_arn        = aws_iam_role.this[each.key].arn
}

# What makes nodes come and go: the autoscaler, in kube-system.
resource "aws_iam_role" "autoscaler" {
  name = "${var.name}-autoscaler"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = { ArnEquals = { "aws:SourceArn" = var.cluster_arn } }
    }]
  })
}

resource "aws_iam_role_policy" "autoscaler" {
  #checkov:skip=CKV_AWS_355:descriptions of scaling groups and instances know no resource
  name = "scale"
  role = aws_iam_role.autoscaler.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
          "autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities",
          "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
          "ec2:GetInstanceTypesFromInstanceRequirements",
        ]
        Resource = "*"
      },
      {
        Sid      = "LookAtNodes"
        Effect   = "Allow"
        Action   = ["eks:DescribeNodegroup"]
        Resource = "arn:${data.aws_partition.this.partition}:eks:${local.region}:${local.account}:nodegroup/${var.cluster_name}/*"
      },
      {
        Sid       = "Scale"
        Effect    = "Allow"
        Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
        Resource  = "arn:${data.aws_partition.this.partition}:autoscaling:${local.region}:${local.account}:autoScalingGroup:*"
        Condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.cluster_name}" = "owned" } }
      },
    ]
  })
}

resource "aws_eks_pod_identity_association" "autoscaler" {
  cluster_name    = var.cluster_name
  namespace       = "kube-system"
  service_account = "cluster-autoscaler"
  role_arn        = aws_iam_role.autoscaler.arn
}
