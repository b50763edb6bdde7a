# Cheap, and gone with one command: no copies of anything but backups of a day.

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
    key          = "dev/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { thalweg = "thalweg-dev" }
  }
}

module "hub" {
  source          = "../../modules/hub"
  name            = "thalweg-dev"
  emails          = var.emails
  admin_role_arns = var.admin_role_arns
  public_cidrs    = var.public_cidrs
  backup_bucket   = var.backup_bucket

  zones        = ["a", "b"]
  nat_gateways = 1

  database_class = "db.t4g.micro"
  multi_az       = false
  backup_days    = 1
  protected      = false
  raw_lock_days  = 0
  log_days       = 30
  budget         = 500

  node_groups = {
    core    = { purpose = "core", instance_types = ["m7i.large"], spot = false, min = 1, max = 2, disk = 50 }
    users   = { purpose = "user", instance_types = ["r7i.large"], spot = false, min = 0, max = 2, disk = 100 }
    workers = { purpose = "worker", instance_types = ["m7i.xlarge", "m6i.xlarge", "m5.xlarge"], spot = true, min = 0, max = 4, disk = 100 }
  }
}
