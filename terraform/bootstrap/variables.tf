variable "region" {
  description = "AWS region of the state"
  type        = string
  default     = "us-east-1"
}

variable "repository" {
  description = "Repository on GitHub whose workflow may plan, as OWNER/NAME"
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository: expected OWNER/NAME, without a star."
  }
}
