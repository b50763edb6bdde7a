variable "name" {
  description = "Name of the environment, before that of each role"
  type        = string
}

variable "cluster_name" {
  description = "Name of the cluster"
  type        = string
}

variable "cluster_arn" {
  description = "ARN of the cluster, whose pods alone get a role"
  type        = string
}

variable "namespace" {
  description = "Kubernetes namespace of the hub"
  type        = string
}

variable "services" {
  description = "Services: service account, buckets that it reads, writes and deletes in, the Iceberg catalogue (none, read, write), the queue of arrivals"
  type = map(object({
    service_account = string
    read            = list(string)
    write           = list(string)
    delete          = list(string)
    catalogue       = string
    queue           = bool
  }))

  validation {
    condition     = alltrue([for name, _ in var.services : !startswith(name, "group-")])
    error_message = "services: names that begin with group- are those of groups."
  }
  validation {
    condition     = alltrue([for service in values(var.services) : contains(["none", "read", "write"], service.catalogue)])
    error_message = "services: catalogue is none, read or write."
  }
  validation {
    condition     = alltrue([for service in values(var.services) : !contains(service.delete, "raw")])
    error_message = "services: nobody deletes in raw; files there are evidence."
  }
}

variable "groups" {
  description = "Groups of people with a Lab; each owns the prefix GROUP/ of the users' bucket"
  type        = set(string)

  validation {
    condition     = alltrue([for group in var.groups : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", group))])
    error_message = "groups: a name has small letters, digits and dashes; it becomes a prefix, a role and a service account."
  }
  validation {
    condition     = !contains(var.groups, "people")
    error_message = "groups: people/ is where the prefixes of single persons are; call the group otherwise."
  }
  validation {
    condition     = length(setintersection(var.groups, keys(var.services))) == 0
    error_message = "groups: a group has the name of a service, and would have its service account."
  }
}

variable "bucket_arns" {
  description = "ARN of each bucket by its meaning"
  type        = map(string)
}

variable "catalogue" {
  description = "Glue database of the Iceberg tables"
  type        = string
}

variable "backup_bucket" {
  description = "Bucket of backups, best of another account; empty: no role may write one"
  type        = string
  default     = ""
}

variable "queue_arn" {
  description = "ARN of the queue of arrivals"
  type        = string
}

variable "key_arn" {
  description = "ARN of the key of the data"
  type        = string
}
