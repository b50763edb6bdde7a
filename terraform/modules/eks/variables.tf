variable "name" {
  description = "Name of the cluster"
  type        = string
}

variable "kubernetes_version" {
  description = "Kubernetes version, such as 1.33"
  type        = string
}

variable "subnet_ids" {
  description = "Ids of the private subnets"
  type        = list(string)
}

variable "public_cidrs" {
  description = "Ranges from which the API may be reached from outside; none: it answers in the network alone"
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.public_cidrs : try(tonumber(split("/", cidr)[1]) >= 16, false)])
    error_message = "public_cidrs: expected ranges of /16 or smaller, such as 192.0.2.0/24; the whole Internet is refused."
  }
}

variable "admin_role_arns" {
  description = "ARNs of the IAM roles that administer the cluster"
  type        = list(string)
}

variable "node_groups" {
  description = "Groups of nodes: purpose (core, user or worker), instance types, spot or on demand, least and most nodes, disk in GiB"
  type = map(object({
    purpose        = string
    instance_types = list(string)
    spot           = bool
    min            = number
    max            = number
    disk           = number
  }))

  validation {
    condition     = anytrue([for group in values(var.node_groups) : group.purpose == "core" && group.min > 0 && !group.spot])
    error_message = "node_groups: one group at least has the purpose core, on demand with min > 0, for the hub itself."
  }
  validation {
    condition     = alltrue([for group in values(var.node_groups) : contains(["core", "user", "worker"], group.purpose)])
    error_message = "node_groups: purpose is core, user or worker."
  }
}

variable "key_arn" {
  description = "ARN of the key of the cluster's secrets and log"
  type        = string
}

variable "log_days" {
  description = "Days for which logs are kept"
  type        = number
}
