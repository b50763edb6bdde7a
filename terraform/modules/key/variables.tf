variable "name" {
  description = "Name of the environment, before that of each thing in it"
  type        = string
}
