mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name          = "test"
  generated     = ["database"]
  kept          = ["login"]
  recovery_days = 30
  key_arn       = "arn:aws:kms:us-east-1:123456789012:key/1"
}

run "encrypted_and_can_be_had_back" {
  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.this : secret.kms_key_id == var.key_arn]) && length(aws_secretsmanager_secret.this) == 2
    error_message = "a secret is missing or not encrypted with the key"
  }
  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.this : secret.recovery_window_in_days == 30])
    error_message = "a secret deleted by mistake is gone"
  }
}
