# The same file in each environment; values stand in its terraform.tfvars.

variable "region" {
  description = "AWS region; that of the NOAA buckets, us-east-1, spares the transfer"
  type        = string
  default     = "us-east-1"
}

variable "emails" {
  description = "Addresses that are told of cost"
  type        = list(string)
}

variable "admin_role_arns" {
  description = "ARNs of the IAM roles that administer the cluster"
  type        = list(string)
}

variable "backup_bucket" {
  description = "Bucket of backups, best of another account, whose policy lets the role NAME-runs list, read and write; empty: none"
  type        = string
  default     = ""
}

variable "public_cidrs" {
  description = "Ranges from which the API of the cluster may be reached from outside; none: from the network alone"
  type        = list(string)
  default     = []
}
