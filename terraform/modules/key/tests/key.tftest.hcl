mock_provider "aws" {
  source = "../../mocks"
}

run "turned_over_and_for_this_account" {
  variables {
    name = "test"
  }
  assert {
    condition     = aws_kms_key.this.enable_key_rotation
    error_message = "the key is not turned over"
  }
  assert {
    condition = alltrue([for s in jsondecode(aws_kms_key.this.policy).Statement :
    !can(s.Principal.Service) || can(s.Condition)])
    error_message = "a service may use the key for other accounts"
  }
  assert {
    condition     = alltrue([for s in jsondecode(aws_kms_key.this.policy).Statement : s.Principal != "*"])
    error_message = "everybody may use the key"
  }
}
