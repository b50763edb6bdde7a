variable "name" {
  description = "Name of the environment, before that of each secret"
  type        = string
}

variable "generated" {
  description = "Secrets that are generated here"
  type        = set(string)
}

variable "kept" {
  description = "Secrets that others issue and people put there (aws secretsmanager put-secret-value)"
  type        = set(string)
}

variable "generation" {
  description = "Raise it by one to generate all anew"
  type        = number
  default     = 1
}

variable "recovery_days" {
  description = "Days for which a deleted secret can be had back: 0, or 7 to 30"
  type        = number
}

variable "key_arn" {
  description = "ARN of the key of the secrets"
  type        = string
}
