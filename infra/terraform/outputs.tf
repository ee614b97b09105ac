output "store" {
  description = "The store's URL, for `fedrounds up --store` and for site.yaml."
  value       = trimsuffix("s3://${aws_s3_bucket.federation.bucket}/${var.prefix}", "/")
}

output "users" {
  description = "Make an access key for each: aws iam create-access-key --user-name NAME"
  value       = { for site, user in aws_iam_user.site : site => user.name }
}
