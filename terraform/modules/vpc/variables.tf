variable "name" {
  description = "Name of the environment, before that of each thing in it"
  type        = string
}

variable "cidr" {
  description = "IPv4 range of the network, /16 to /19: an eighth a zone for pods, the last for the public subnets"
  type        = string

  validation {
    condition     = try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 19, false)
    error_message = "cidr: expected an IPv4 range of /16 to /19, such as 10.0.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones, two to six"
  type        = list(string)

  validation {
    condition     = length(distinct(var.zones)) == length(var.zones) && length(var.zones) >= 2 && length(var.zones) <= 6
    error_message = "zones: expected two to six different availability zones; EKS and RDS need two at least."
  }
}

variable "nat_gateways" {
  description = "NAT gateways: 1 is cheap, one a zone outlives the loss of a zone"
  type        = number

  validation {
    condition     = var.nat_gateways >= 1 && var.nat_gateways <= length(var.zones)
    error_message = "nat_gateways: expected 1 to the number of zones."
  }
}

variable "key_arn" {
  description = "ARN of the key of the flow log"
  type        = string
}

variable "log_days" {
  description = "Days for which logs are kept"
  type        = number
}
