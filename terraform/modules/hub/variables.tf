variable "name" {
  description = "Name of the environment, before that of each thing in it"
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name: expected 3 to 24 small letters, digits and dashes, beginning with a letter; bucket names begin with it."
  }
}

variable "emails" {
  description = "Addresses that are told of cost"
  type        = list(string)
}

variable "admin_role_arns" {
  description = "ARNs of the IAM roles that administer the cluster"
  type        = list(string)

  validation {
    condition     = length(var.admin_role_arns) > 0
    error_message = "admin_role_arns: expected one IAM role at least; without it nobody could install the chart."
  }
}

variable "public_cidrs" {
  description = "Ranges from which the API of the cluster may be reached from outside"
  type        = list(string)
}

variable "cidr" {
  description = "IPv4 range of the network"
  type        = string
  default     = "10.0.0.0/16"
}

variable "zones" {
  description = "Letters of the availability zones, such as a, b and c; fixed, so that a new zone moves nothing"
  type        = list(string)
}

variable "nat_gateways" {
  description = "Number of NAT gateways"
  type        = number
}

variable "kubernetes_version" {
  description = "Kubernetes version of the cluster"
  type        = string
  default     = "1.33"
}

variable "node_groups" {
  description = "Groups of nodes, as in module eks"
  type = map(object({
    purpose        = string
    instance_types = list(string)
    spot           = bool
    min            = number
    max            = number
    disk           = number
  }))
}

variable "database_class" {
  description = "Size of the database"
  type        = string
}

variable "multi_az" {
  description = "Whether the database has a standby in another zone"
  type        = bool
}

variable "backup_days" {
  description = "Days to any second of which the database can be brought back"
  type        = number
}

variable "protected" {
  description = "Whether what holds data refuses to be deleted"
  type        = bool
}

variable "raw_lock_days" {
  description = "Days for which a raw file cannot be deleted; 0: no lock"
  type        = number
}

variable "backup_bucket" {
  description = "Bucket of backups, best of another account; empty: none"
  type        = string
  default     = ""
}

variable "log_days" {
  description = "Days for which logs are kept"
  type        = number
}

variable "budget" {
  description = "US dollars a month"
  type        = number
}
