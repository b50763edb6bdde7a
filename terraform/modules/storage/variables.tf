variable "name" {
  description = "Name of the environment, before that of each bucket"
  type        = string
}

variable "catalogue" {
  description = "Glue database of the Iceberg tables: the namespace of Thalweg's warehouse"
  type        = string
}

variable "raw_lock_days" {
  description = "Days for which a raw file cannot be deleted (object lock, governance mode); 0: no lock. Fixed when the bucket is made"
  type        = number

  validation {
    condition     = var.raw_lock_days >= 0 && floor(var.raw_lock_days) == var.raw_lock_days
    error_message = "raw_lock_days: expected a whole number of days, 0 for none."
  }
}

variable "raw_glacier_days" {
  description = "Days after which raw files move to Glacier Instant Retrieval"
  type        = number
  default     = 90
}

variable "old_version_days" {
  description = "Days for which deleted and replaced objects can be had back"
  type        = number
  default     = 30
}

variable "force_destroy" {
  description = "Whether `terraform destroy` deletes buckets that hold data"
  type        = bool
}

variable "key_arn" {
  description = "ARN of the key of buckets and home folders"
  type        = string
}

variable "vpc_id" {
  description = "Id of the network"
  type        = string
}

variable "subnet_ids" {
  description = "Id of the private subnet of each zone"
  type        = map(string)
}

variable "node_security_group_id" {
  description = "Security group of the nodes, which mount the home folders"
  type        = string
}

variable "log_days" {
  description = "Days for which access logs are kept"
  type        = number
}
