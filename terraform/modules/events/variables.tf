variable "name" {
  description = "Name of the environment, before that of each thing in it"
  type        = string
}

variable "bucket" {
  description = "Name of the raw bucket"
  type        = string
}

variable "key_arn" {
  description = "ARN of the key of the messages"
  type        = string
}
