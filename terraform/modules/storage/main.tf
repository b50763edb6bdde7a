# Buckets, by what they mean to the settings of Thalweg: raw_uri, warehouse, runs_uri, gridded_uri.
# `users` holds what groups make for themselves, `logs` who opened what.

data "aws_caller_identity" "this" {}

locals {
  data    = ["raw", "warehouse", "runs", "gridded", "users"]
  buckets = { for key in concat(local.data, ["logs"]) : key => "${var.name}-${key}-${data.aws_caller_identity.this.account_id}" }
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_144:a second region is a decision of the institution; see the how-to on backup
  #checkov:skip=CKV_AWS_18:all but the log bucket itself are logged, below
  #checkov:skip=CKV_AWS_145:encrypted with the environment's key below, but for logs, which S3 writes with its own
  #checkov:skip=CKV2_AWS_62:module events listens to raw; nothing waits for arrivals in the others
  for_each            = local.buckets
  bucket              = each.value
  force_destroy       = var.force_destroy
  object_lock_enabled = each.key == "raw" && var.raw_lock_days > 0
  tags                = { Name = each.key }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = aws_s3_bucket.this
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  rule {
    bucket_key_enabled = each.key != "logs"
    apply_server_side_encryption_by_default {
      sse_algorithm     = each.key == "logs" ? "AES256" : "aws:kms" # S3 writes access logs with its own key only
      kms_master_key_id = each.key == "logs" ? null : var.key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  versioning_configuration {
    status = "Enabled"
  }
}

# Evidence that nobody can delete for that long; governance mode, so that one role of the account can.
resource "aws_s3_bucket_object_lock_configuration" "raw" {
  count  = var.raw_lock_days > 0 ? 1 : 0
  bucket = aws_s3_bucket.this["raw"].id
  rule {
    default_retention {
      mode = "GOVERNANCE"
      days = var.raw_lock_days
    }
  }
  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id

  rule {
    id     = "parts-of-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  # What was deleted or replaced can be had back for that long.
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.old_version_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  # Glacier Instant Retrieval: still read within milliseconds, so that lineage and replays go on.
  dynamic "rule" {
    for_each = each.key == "raw" ? [1] : []
    content {
      id     = "to-glacier"
      status = "Enabled"
      filter {}
      transition {
        days          = var.raw_glacier_days
        storage_class = "GLACIER_IR"
      }
    }
  }

  dynamic "rule" {
    for_each = each.key == "logs" ? [1] : []
    content {
      id     = "logs"
      status = "Enabled"
      filter {}
      expiration {
        days = var.log_days
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [each.value.arn, "${each.value.arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "Tls12"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [each.value.arn, "${each.value.arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
      ], each.key != "logs" ? [] : [{
        Sid       = "AccessLogs"
        Effect    = "Allow"
        Principal = { Service = "logging.s3.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = ["${each.value.arn}/*"]
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
    }])
  })
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_logging" "this" {
  for_each      = toset(local.data)
  bucket        = aws_s3_bucket.this[each.key].id
  target_bucket = aws_s3_bucket.this["logs"].id
  target_prefix = "${each.key}/"
  depends_on    = [aws_s3_bucket_policy.this]
}

# The namespace of the Iceberg tables, so that no pod needs the right to make one.
resource "aws_glue_catalog_database" "this" {
  name         = var.catalogue
  description  = "Iceberg tables of ${var.name}"
  location_uri = "s3://${aws_s3_bucket.this["warehouse"].id}/${var.catalogue}.db"
}

# Home folders.
resource "aws_efs_file_system" "homes" {
  encrypted       = true
  kms_key_id      = var.key_arn
  throughput_mode = "elastic"
  tags            = { Name = "${var.name}-homes" }

  lifecycle_policy {
    transition_to_ia = "AFTER_30_DAYS"
  }
  lifecycle_policy {
    transition_to_primary_storage_class = "AFTER_1_ACCESS"
  }
}

resource "aws_efs_backup_policy" "homes" {
  file_system_id = aws_efs_file_system.homes.id
  backup_policy {
    status = "ENABLED" # daily, kept for 35 days
  }
}

# Mounted over TLS by pods whose role the driver uses; never by root of another network.
resource "aws_efs_file_system_policy" "homes" {
  file_system_id = aws_efs_file_system.homes.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "*"
        Resource  = aws_efs_file_system.homes.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "MountTargetsOnly"
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"]
        Resource  = aws_efs_file_system.homes.arn
        Condition = { Bool = { "elasticfilesystem:AccessedViaMountTarget" = "true" } }
      },
    ]
  })
}

resource "aws_security_group" "homes" {
  name        = "${var.name}-homes"
  description = "NFS from the nodes to the home folders"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "homes" {
  security_group_id            = aws_security_group.homes.id
  description                  = "NFS from the nodes"
  referenced_security_group_id = var.node_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}

resource "aws_efs_mount_target" "homes" {
  for_each        = var.subnet_ids
  file_system_id  = aws_efs_file_system.homes.id
  subnet_id       = each.value
  security_groups = [aws_security_group.homes.id]
}
