# Shaped as prod, at a smaller size: upgrades and restores are rehearsed here.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # Bucket and region come from ../../backend.hcl, which bootstrap writes.
  backend "s3" {
    key          = "staging/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { thalweg = "thalweg-staging" }
  }
}

module "hub" {
  source          = "../../modules/hub"
  name            = "thalweg-staging"
  emails          = var.emails
  admin_role_arns = var.admin_role_arns
  public_cidrs    = var.public_cidrs
  backup_bucket   = var.backup_bucket

  zones        = ["a", "b", "c"]
  nat_gateways = 1

  database_class = "db.t4g.small"
  multi_az       = false
  backup_days    = 7
  protected      = true
  raw_lock_days  = 0
  log_days       = 90
  budget         = 1500

  node_groups = {
    core    = { purpose = "core", instance_types = ["m7i.large"], spot = false, min = 2, max = 3, disk = 50 }
    users   = { purpose = "user", instance_types = ["r7i.xlarge"], spot = false, min = 0, max = 4, disk = 100 }
    workers = { purpose = "worker", instance_types = ["m7i.2xlarge", "m6i.2xlarge", "m5.2xlarge"], spot = true, min = 0, max = 10, disk = 100 }
  }
}
