output "queue_url" {
  description = "URL of the queue of arrivals"
  value       = aws_sqs_queue.arrivals.id
}

output "queue_arn" {
  description = "ARN of the queue of arrivals"
  value       = aws_sqs_queue.arrivals.arn
}
