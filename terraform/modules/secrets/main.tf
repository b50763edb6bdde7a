# Places of secrets. What others issue, people put there; the rest is generated.

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:turned over by raising the version; the how-to on upgrades says how
  for_each                = setunion(var.generated, var.kept)
  name                    = "${var.name}/${each.key}"
  kms_key_id              = var.key_arn
  recovery_window_in_days = var.recovery_days
}
