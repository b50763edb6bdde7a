# Outlives the loss of a zone, and keeps what is deleted by mistake.

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
    key          = "prod/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { thalweg = "thalweg-prod" }
  }
}

module "hub" {
  source          = "../../modules/hub"
  name            = "thalweg-prod"
  emails          = var.emails
  admin_role_arns = var.admin_role_arns
  public_cidrs    = var.public_cidrs
  backup_bucket   = var.backup_bucket

  zones        = ["a", "b", "c"]
  nat_gateways = 3

  database_class = "db.m7g.large"
  multi_az       = true
  backup_days    = 35
  protected      = true
  raw_lock_days  = 30
  log_days       = 365
  budget         = 10000

  node_groups = {
    core    = { purpose = "core", instance_types = ["m7i.xlarge"], spot = false, min = 3, max = 6, disk = 100 }
    users   = { purpose = "user", instance_types = ["r7i.2xlarge"], spot = false, min = 0, max = 20, disk = 200 }
    workers = { purpose = "worker", instance_types = ["m7i.4xlarge", "m6i.4xlarge", "m5.4xlarge"], spot = true, min = 0, max = 50, disk = 200 }
  }
}
