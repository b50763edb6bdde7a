mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name                   = "test"
  catalogue              = "hydro"
  raw_lock_days          = 0
  force_destroy          = false
  key_arn                = "arn:aws:kms:us-east-1:123456789012:key/1"
  vpc_id                 = "vpc-1"
  subnet_ids             = { us-east-1a = "subnet-1", us-east-1b = "subnet-2" }
  node_security_group_id = "sg-1"
  log_days               = 30
}

run "every_bucket_is_closed_encrypted_and_versioned" {
  assert {
    condition = alltrue([for key in ["raw", "warehouse", "runs", "gridded", "users"] :
      one(aws_s3_bucket_server_side_encryption_configuration.this[key].rule).apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"
      && one(aws_s3_bucket_server_side_encryption_configuration.this[key].rule).apply_server_side_encryption_by_default[0].kms_master_key_id == var.key_arn
    ])
    error_message = "a bucket is not encrypted with the key"
  }
  assert {
    condition = alltrue([for block in aws_s3_bucket_public_access_block.this :
    block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets])
    error_message = "a bucket can be made public"
  }
  assert {
    condition     = keys(aws_s3_bucket_public_access_block.this) == keys(aws_s3_bucket.this) && keys(aws_s3_bucket_policy.this) == keys(aws_s3_bucket.this)
    error_message = "a bucket was left out"
  }
  assert {
    condition     = alltrue([for v in aws_s3_bucket_versioning.this : v.versioning_configuration[0].status == "Enabled"])
    error_message = "what is deleted cannot be had back"
  }
  assert {
    condition = alltrue([for p in aws_s3_bucket_policy.this : anytrue([for s in jsondecode(p.policy).Statement :
      s.Effect == "Deny" && s.Principal == "*" && try(s.Condition.Bool["aws:SecureTransport"], "") == "false"
    ])])
    error_message = "a bucket answers without TLS"
  }
  assert {
    condition = alltrue(flatten([for p in aws_s3_bucket_policy.this : [for s in jsondecode(p.policy).Statement :
      s.Effect == "Deny" || s.Principal != "*"
    ]]))
    error_message = "a bucket is open to everybody"
  }
  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : !bucket.force_destroy])
    error_message = "a full bucket can be destroyed"
  }
}

run "raw_goes_to_glacier_and_stays_readable" {
  assert {
    condition = [for rule in aws_s3_bucket_lifecycle_configuration.this["raw"].rule :
    one(rule.transition).storage_class if rule.id == "to-glacier"] == ["GLACIER_IR"]
    error_message = "raw files do not move, or to where they cannot be read at once"
  }
  assert {
    condition     = !contains([for rule in aws_s3_bucket_lifecycle_configuration.this["raw"].rule : length(rule.expiration) > 0 && rule.id != "old-versions"], true)
    error_message = "raw files expire"
  }
}

run "no_lock_unless_asked_for" {
  assert {
    condition     = length(aws_s3_bucket_object_lock_configuration.raw) == 0 && !aws_s3_bucket.this["raw"].object_lock_enabled
    error_message = "raw is locked"
  }
}

run "raw_alone_can_be_locked" {
  variables {
    raw_lock_days = 30
  }
  assert {
    condition     = aws_s3_bucket.this["raw"].object_lock_enabled && aws_s3_bucket_object_lock_configuration.raw[0].rule[0].default_retention[0].days == 30
    error_message = "raw is not locked"
  }
  assert {
    condition     = !aws_s3_bucket.this["warehouse"].object_lock_enabled
    error_message = "the warehouse could not be maintained"
  }
}

run "home_folders" {
  assert {
    condition     = aws_efs_file_system.homes.encrypted && aws_efs_backup_policy.homes.backup_policy[0].status == "ENABLED"
    error_message = "home folders are not encrypted, or not backed up"
  }
  assert {
    condition     = length(aws_efs_mount_target.homes) == 2
    error_message = "a zone cannot mount the home folders"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.homes.referenced_security_group_id == var.node_security_group_id
    error_message = "more than the nodes can mount the home folders"
  }
}

run "a_negative_lock_is_refused" {
  command = plan
  variables {
    raw_lock_days = -1
  }
  expect_failures = [var.raw_lock_days]
}
