variable "name" {
  description = "Name of the environment: the value of the tag thalweg, by which its cost is found"
  type        = string
}

variable "dollars" {
  description = "US dollars a month"
  type        = number

  validation {
    condition     = var.dollars > 0
    error_message = "dollars: expected more than 0."
  }
}

variable "emails" {
  description = "Addresses that are told"
  type        = list(string)

  validation {
    condition     = length(var.emails) > 0 && alltrue([for email in var.emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "emails: expected one mail address at least; a budget that tells nobody is none."
  }
}
