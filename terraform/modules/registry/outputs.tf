output "repository" {
  description = "The image's name without a tag"
  value       = aws_ecr_repository.this.repository_url
}
