# The whole of one environment, from the modules beside this one. An environment is a call of it.

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

locals {
  catalogue = "hydro" # the namespace of src/thalweg/warehouse/schema.py
  namespace = "thalweg"

  # Who has a Lab is said in hub-config, once.
  groups = yamldecode(file("${path.module}/../../../hub-config/groups.yaml"))
  labs   = [for name, group in local.groups : name if group.lab]

  # Who logs in to the database: the library, people's Labs, the hub, Dagster.
  roles = ["thalweg", "lab", "hub", "dagster"]

  # By service account of the chart. The hub, its proxy and Dagster's daemon need nothing of AWS: no role.
  services = {
    runs = {
      service_account = "thalweg-runs"
      read            = ["raw", "warehouse", "runs", "gridded"]
      write           = ["raw", "warehouse", "runs", "gridded"]
      delete          = ["warehouse", "gridded"]
      catalogue       = "write"
      queue           = true
    }
    dashboards = {
      service_account = "thalweg-dashboards"
      read            = ["warehouse", "runs", "gridded"]
      write           = []
      delete          = []
      catalogue       = "read"
      queue           = false
    }
  }
}

module "key" {
  source = "../key"
  name   = var.name
}

module "vpc" {
  source       = "../vpc"
  name         = var.name
  cidr         = var.cidr
  zones        = [for letter in var.zones : "${data.aws_region.this.name}${letter}"]
  nat_gateways = var.nat_gateways
  key_arn      = module.key.arn
  log_days     = var.log_days
}

module "eks" {
  source             = "../eks"
  name               = var.name
  kubernetes_version = var.kubernetes_version
  subnet_ids         = values(module.vpc.private_subnet_ids)
  public_cidrs       = var.public_cidrs
  admin_role_arns    = var.admin_role_arns
  node_groups        = var.node_groups
  key_arn            = module.key.arn
  log_days           = var.log_days
}

module "storage" {
  source                 = "../storage"
  name                   = var.name
  catalogue              = local.catalogue
  raw_lock_days          = var.raw_lock_days
  force_destroy          = !var.protected
  key_arn                = module.key.arn
  vpc_id                 = module.vpc.vpc_id
  subnet_ids             = module.vpc.private_subnet_ids
  node_security_group_id = module.eks.security_group_id
  log_days               = var.log_days
}

module "registry" {
  source        = "../registry"
  name          = var.name
  force_destroy = !var.protected
  key_arn       = module.key.arn
}

module "database" {
  source                 = "../database"
  name                   = var.name
  instance_class         = var.database_class
  multi_az               = var.multi_az
  backup_days            = var.backup_days
  protected              = var.protected
  key_arn                = module.key.arn
  vpc_id                 = module.vpc.vpc_id
  subnet_ids             = values(module.vpc.private_subnet_ids)
  node_security_group_id = module.eks.security_group_id
  log_days               = var.log_days
}

module "secrets" {
  source        = "../secrets"
  name          = var.name
  generated     = [for role in local.roles : "database-${role}"]
  kept          = ["login"]
  recovery_days = var.protected ? 30 : 0
  key_arn       = module.key.arn
}

module "events" {
  source  = "../events"
  name    = var.name
  bucket  = module.storage.buckets["raw"]
  key_arn = module.key.arn
}

module "identity" {
  source       = "../identity"
  name         = var.name
  cluster_name = module.eks.cluster_name
  cluster_arn  = module.eks.cluster_arn
  namespace    = local.namespace
  services     = local.services
  groups       = local.labs
  bucket_arns  = module.storage.bucket_arns
  catalogue    = local.catalogue
  queue_arn    = module.events.queue_arn
  key_arn      = module.key.arn

  backup_bucket = var.backup_bucket
}

module "budget" {
  source  = "../budget"
  name    = var.name
  dollars = var.budget
  emails  = var.emails
}
