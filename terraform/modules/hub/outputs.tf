output "region" {
  value       = data.aws_region.this.name
  description = "Region of everything here"
}

output "account" {
  value       = data.aws_caller_identity.this.account_id
  description = "Account of everything here, whose Glue catalogue holds the tables"
}

output "buckets" {
  value       = module.storage.buckets
  description = "Name of each bucket by its meaning: raw, warehouse, runs, gridded, and users, where each group has GROUP/ and each person people/POD/"
}

output "efs_id" {
  value       = module.storage.efs_id
  description = "Id of the file system of home folders"
}

output "cluster_name" {
  value       = module.eks.cluster_name
  description = "Name of the cluster"
}

output "image_repository" {
  value       = module.registry.repository
  description = "The image's name without a tag"
}

output "database_endpoint" {
  value       = module.database.endpoint
  description = "HOST:PORT of the database"
}

output "database_identifier" {
  value       = module.database.identifier
  description = "Identifier of the database, for snapshots and restores"
}

output "database_master_secret_arn" {
  value       = module.database.master_secret_arn
  description = "ARN of the secret of the database's master, to make those roles with"
}

output "database_secret_arns" {
  value       = { for role in local.roles : role => module.secrets.arns["database-${role}"] }
  description = "ARN of the secret with the password of each of the database's roles: thalweg, lab, hub, dagster"
}

output "login_secret_arn" {
  value       = module.secrets.arns["login"]
  description = "ARN of the secret for the client secret of the identity provider; people put it there"
}

output "queue_url" {
  value       = module.events.queue_url
  description = "URL of the queue of arrivals in raw"
}

output "backup_bucket" {
  value       = var.backup_bucket
  description = "Bucket of backups; empty: none"
}

output "role_arns" {
  value       = module.identity.role_arns
  description = "ARN of the role of each service and group"
}

output "service_accounts" {
  value       = module.identity.service_accounts
  description = "Kubernetes service account of each service and group"
}

output "guards" {
  description = "What keeps the environment from loss; the tests of each environment hold it to these"
  value = {
    zones              = length(module.vpc.private_subnet_ids)
    nat_gateways       = var.nat_gateways
    standby            = module.database.multi_az
    database_protected = module.database.protected
    backup_days        = module.database.backup_days
    raw_lock_days      = var.raw_lock_days
    core_nodes         = var.node_groups["core"].min
  }
}
