variable "name" {
  description = "Name of the repository"
  type        = string
}

variable "kept" {
  description = "Newest images that are kept"
  type        = number
  default     = 50
}

variable "force_destroy" {
  description = "Whether `terraform destroy` deletes a repository that holds images"
  type        = bool
}

variable "key_arn" {
  description = "ARN of the key of the images"
  type        = string
}
