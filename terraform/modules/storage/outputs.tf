output "buckets" {
  description = "Name of each bucket by its meaning: raw, warehouse, runs, gridded, users, logs"
  value       = { for key, bucket in aws_s3_bucket.this : key => bucket.bucket }
}

output "bucket_arns" {
  description = "ARN of each bucket by its meaning"
  value       = { for key, bucket in aws_s3_bucket.this : key => bucket.arn }
}

output "efs_id" {
  description = "Id of the file system of home folders"
  value       = aws_efs_file_system.homes.id
}
