variable "name" {
  description = "Name of the instance"
  type        = string
}

variable "postgres_version" {
  description = "Major version of PostgreSQL; minor ones come by themselves"
  type        = string
  default     = "17"
}

variable "instance_class" {
  description = "Size of the instance, such as db.t4g.medium"
  type        = string
}

variable "multi_az" {
  description = "Whether a standby waits in another zone"
  type        = bool
}

variable "backup_days" {
  description = "Days to any second of which the database can be brought back"
  type        = number

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days: expected 1 to 35; 0 would turn backups off."
  }
}

variable "protected" {
  description = "Whether deletion is refused, and leaves a last snapshot and the backups once it is allowed"
  type        = bool
}

variable "key_arn" {
  description = "ARN of the key of the database"
  type        = string
}

variable "vpc_id" {
  description = "Id of the network"
  type        = string
}

variable "subnet_ids" {
  description = "Ids of the private subnets"
  type        = list(string)
}

variable "node_security_group_id" {
  description = "Security group of the nodes, which alone may connect"
  type        = string
}

variable "log_days" {
  description = "Days for which logs are kept"
  type        = number
}
