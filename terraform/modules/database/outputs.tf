output "endpoint" {
  description = "HOST:PORT of the database"
  value       = aws_db_instance.this.endpoint
}

output "identifier" {
  description = "Identifier of the instance, for snapshots and restores"
  value       = aws_db_instance.this.identifier
}

output "master_secret_arn" {
  description = "ARN of the master's secret, which RDS turns over"
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "multi_az" {
  description = "Whether a standby waits in another zone"
  value       = aws_db_instance.this.multi_az
}

output "protected" {
  description = "Whether deletion is refused"
  value       = aws_db_instance.this.deletion_protection
}

output "backup_days" {
  description = "Days to any second of which the database can be brought back"
  value       = aws_db_instance.this.backup_retention_period
}
