# The same file in each environment: what the chart's values are made of.

output "region" {
  description = "Region of everything here"
  value       = module.hub.region
}

output "account" {
  description = "Account of everything here, whose Glue catalogue holds the tables"
  value       = module.hub.account
}

output "raw_bucket" {
  description = "Setting raw_uri, after s3://"
  value       = module.hub.buckets["raw"]
}

output "warehouse_bucket" {
  description = "Property warehouse of the PyIceberg catalogue, after s3://; the catalogue is Glue"
  value       = module.hub.buckets["warehouse"]
}

output "runs_bucket" {
  description = "Setting runs_uri, after s3://"
  value       = module.hub.buckets["runs"]
}

output "gridded_bucket" {
  description = "Setting gridded_uri, after s3://"
  value       = module.hub.buckets["gridded"]
}

output "users_bucket" {
  description = "What groups make for themselves, each under GROUP/"
  value       = module.hub.buckets["users"]
}

output "cluster_name" {
  description = "Name of the cluster"
  value       = module.hub.cluster_name
}

output "image_repository" {
  description = "The image's name without a tag"
  value       = module.hub.image_repository
}

output "efs_id" {
  description = "File system of home folders"
  value       = module.hub.efs_id
}

output "database_endpoint" {
  description = "HOST:PORT of the database"
  value       = module.hub.database_endpoint
}

output "database_identifier" {
  description = "Identifier of the database, for snapshots and restores"
  value       = module.hub.database_identifier
}

output "database_secret_arns" {
  description = "Secret with the password of each of the database's roles: thalweg, lab, hub, dagster"
  value       = module.hub.database_secret_arns
}

output "database_master_secret_arn" {
  description = "Secret of the database's master, to make those roles with"
  value       = module.hub.database_master_secret_arn
}

output "login_secret_arn" {
  description = "Secret for the client secret of the identity provider; people put it there"
  value       = module.hub.login_secret_arn
}

output "queue_url" {
  description = "Queue of arrivals in the raw bucket"
  value       = module.hub.queue_url
}

output "role_arns" {
  description = "IAM role of each service and group"
  value       = module.hub.role_arns
}

output "service_accounts" {
  description = "Kubernetes service account that has the role of each service and group"
  value       = module.hub.service_accounts
}
