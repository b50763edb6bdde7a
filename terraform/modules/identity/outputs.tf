output "role_arns" {
  description = "ARN of the role of each service and group"
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "service_accounts" {
  description = "Service account of each service and group"
  value       = { for name, role in local.roles : name => role.service_account }
}
