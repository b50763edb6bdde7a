# The same file in each environment: all that modules/hub/outputs.tf tells, where each is described.

output "hub" {
  description = "Where everything is: what `thalweg deploy` reads"
  value       = module.hub
}
