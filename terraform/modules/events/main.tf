# A file that others put below inbox/ in the raw bucket becomes a message: S3 → EventBridge → SQS, for
# `thalweg arrivals`. What cannot be worked on is set aside after five attempts, and an alarm says so.

resource "aws_s3_bucket_notification" "raw" {
  bucket      = var.bucket
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "arrivals" {
  name        = "${var.name}-raw-arrivals"
  description = "Files that arrive in the inbox of ${var.name}"
  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [var.bucket] }
      object = { key = [{ prefix = "inbox/" }] } # what the pipelines land needs no telling
    }
  })
}

resource "aws_cloudwatch_event_target" "queue" {
  rule = aws_cloudwatch_event_rule.arrivals.name
  arn  = aws_sqs_queue.arrivals.arn
  dead_letter_config {
    arn = aws_sqs_queue.dead.arn
  }
}

resource "aws_sqs_queue" "arrivals" {
  name                       = "${var.name}-raw-arrivals"
  kms_master_key_id          = var.key_arn
  visibility_timeout_seconds = 900
  message_retention_seconds  = 345600 # 4 days
  receive_wait_time_seconds  = 20
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead.arn
    maxReceiveCount     = 5
  })
}

resource "aws_sqs_queue" "dead" {
  name                      = "${var.name}-raw-arrivals-dead"
  kms_master_key_id         = var.key_arn
  message_retention_seconds = 1209600 # 14 days, the most
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  queue_url = aws_sqs_queue.dead.id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.arrivals.arn]
  })
}

resource "aws_sqs_queue_policy" "this" {
  for_each  = { arrivals = aws_sqs_queue.arrivals, dead = aws_sqs_queue.dead }
  queue_url = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Arrivals"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = each.value.arn
        Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.arrivals.arn } }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = each.value.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

resource "aws_cloudwatch_metric_alarm" "dead" {
  alarm_name          = "${var.name}-raw-arrivals-dead"
  alarm_description   = "Arrivals that could not be worked on five times over; see the how-to on deployment"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
}
