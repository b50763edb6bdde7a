mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name                   = "test"
  instance_class         = "db.t4g.medium"
  multi_az               = true
  backup_days            = 7
  protected              = true
  key_arn                = "arn:aws:kms:us-east-1:123456789012:key/1"
  vpc_id                 = "vpc-1"
  subnet_ids             = ["subnet-1", "subnet-2"]
  node_security_group_id = "sg-1"
  log_days               = 30
}

run "closed_encrypted_and_without_a_password_here" {
  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == var.key_arn
    error_message = "the database is not encrypted with the key"
  }
  assert {
    condition     = !aws_db_instance.this.publicly_accessible
    error_message = "the database has a public address"
  }
  assert {
    condition     = aws_db_instance.this.manage_master_user_password
    error_message = "Terraform would know the password"
  }
  assert {
    condition     = contains([for p in aws_db_parameter_group.this.parameter : p.value if p.name == "rds.force_ssl"], "1")
    error_message = "the database speaks without TLS"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.this.referenced_security_group_id == var.node_security_group_id
    error_message = "more than the nodes may connect"
  }
}

run "protected" {
  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && !aws_db_instance.this.delete_automated_backups
    error_message = "the database can be deleted without a trace"
  }
  assert {
    condition     = aws_db_instance.this.multi_az
    error_message = "no standby"
  }
}

run "no_backups_are_refused" {
  command = plan
  variables {
    backup_days = 0
  }
  expect_failures = [var.backup_days]
}
