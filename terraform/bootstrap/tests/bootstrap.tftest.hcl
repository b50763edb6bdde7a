mock_provider "aws" {
  source = "../mocks"
}

variables {
  repository = "thalweg/thalweg"
}

run "the_state_is_kept" {
  assert {
    condition     = aws_s3_bucket_versioning.state.versioning_configuration[0].status == "Enabled"
    error_message = "a bad state cannot be taken back"
  }
  assert {
    condition     = aws_s3_bucket_public_access_block.state.restrict_public_buckets && aws_s3_bucket_public_access_block.state.block_public_policy
    error_message = "the state can be made public"
  }
}

run "the_workflow_reads_the_state_alone" {
  assert {
    condition = jsondecode(aws_iam_role.plan.assume_role_policy).Statement[0].Condition.StringEquals == {
      "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
      "token.actions.githubusercontent.com:sub" = "repo:thalweg/thalweg:environment:plan"
    }
    error_message = "another repository or environment gets the role"
  }
  assert {
    condition = toset(flatten([for s in jsondecode(aws_iam_role_policy.plan.policy).Statement : s.Action])) == toset([
      "s3:GetObject", "s3:ListBucket", "secretsmanager:GetRandomPassword"
    ])
    error_message = "a plan may do more than read the state"
  }
}

run "any_repository_is_refused" {
  command = plan
  variables {
    repository = "thalweg/*"
  }
  expect_failures = [var.repository]
}
