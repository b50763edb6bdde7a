mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name          = "test"
  force_destroy = false
  key_arn       = "arn:aws:kms:us-east-1:123456789012:key/1"
}

run "tags_stay_and_images_are_scanned" {
  assert {
    condition     = aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE"
    error_message = "a tag can come to mean another image"
  }
  assert {
    condition     = aws_ecr_repository.this.image_scanning_configuration[0].scan_on_push
    error_message = "images are not scanned"
  }
  assert {
    condition     = aws_ecr_repository.this.encryption_configuration[0].kms_key == var.key_arn
    error_message = "images are not encrypted with the key"
  }
  assert {
    condition     = jsondecode(aws_ecr_lifecycle_policy.this.policy).rules[1].selection.countNumber == 50
    error_message = "fewer images are kept to roll back to"
  }
}
