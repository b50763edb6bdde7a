output "backend" {
  description = "What ../backend.hcl has to say: terraform output -raw backend > ../backend.hcl"
  value       = <<-EOT
    bucket = "${aws_s3_bucket.state.id}"
    region = "${var.region}"
  EOT
}

output "plan_role_arn" {
  description = "Variable AWS_PLAN_ROLE of the repository's environment `plan`"
  value       = aws_iam_role.plan.arn
}
