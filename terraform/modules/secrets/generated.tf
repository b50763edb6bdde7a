# Generated within a run of Terraform and written to Secrets Manager: neither plan nor state holds it
# (ephemeral value, write-only argument). A file of its own, since Terraform 1.11 cannot mock it.

ephemeral "aws_secretsmanager_random_password" "this" {
  for_each            = var.generated
  password_length     = 40
  exclude_punctuation = true # passwords go into URLs
}

resource "aws_secretsmanager_secret_version" "generated" {
  for_each                 = var.generated
  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.this[each.key].random_password
  secret_string_wo_version = var.generation
}
