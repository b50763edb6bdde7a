mock_provider "aws" {
  source = "../../mocks"
}

override_resource {
  target = aws_sqs_queue.dead
  values = { arn = "arn:aws:sqs:us-east-1:123456789012:dead" }
}

variables {
  name    = "test"
  bucket  = "test-raw"
  key_arn = "arn:aws:kms:us-east-1:123456789012:key/1"
}

run "arrivals_in_the_inbox_of_raw_alone" {
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.arrivals.event_pattern).detail.bucket.name == ["test-raw"]
    error_message = "another bucket is listened to"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.arrivals.event_pattern).detail.object.key == [{ prefix = "inbox/" }]
    error_message = "each file that the pipelines land becomes a message"
  }
  assert {
    condition     = aws_s3_bucket_notification.raw.eventbridge
    error_message = "the bucket tells nothing"
  }
}

run "nothing_is_lost" {
  assert {
    condition = jsondecode(aws_sqs_queue.arrivals.redrive_policy) == {
      deadLetterTargetArn = "arn:aws:sqs:us-east-1:123456789012:dead"
      maxReceiveCount     = 5
    }
    error_message = "what fails is not set aside"
  }
  assert {
    condition     = aws_sqs_queue.dead.message_retention_seconds == 14 * 24 * 3600
    error_message = "what was set aside is gone before somebody looks"
  }
  assert {
    condition     = aws_sqs_queue.arrivals.kms_master_key_id == var.key_arn && aws_sqs_queue.dead.kms_master_key_id == var.key_arn
    error_message = "messages are not encrypted with the key"
  }
}

run "only_the_rule_may_send" {
  assert {
    condition = alltrue(flatten([for p in aws_sqs_queue_policy.this : [for s in jsondecode(p.policy).Statement :
      s.Effect == "Deny" || try(s.Condition.ArnEquals["aws:SourceArn"], "") == aws_cloudwatch_event_rule.arrivals.arn
    ]]))
    error_message = "anybody may send to a queue"
  }
}
