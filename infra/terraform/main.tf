# The federation's bucket on AWS, one user for the hub and one for each site.
#
# A site reads shared/ and its own mailbox, and writes its own out/: the same
# rights as `fedrounds site policy NAME --kind aws`. Access keys are not made
# here, so that no secret is in Terraform's state: `aws iam create-access-key`.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

resource "aws_s3_bucket" "federation" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "federation" {
  bucket                  = aws_s3_bucket.federation.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "federation" {
  bucket = aws_s3_bucket.federation.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "federation" {
  bucket = aws_s3_bucket.federation.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "federation" {
  bucket = aws_s3_bucket.federation.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256" # no key of KMS, which a user of another account could not use
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "federation" {
  bucket = aws_s3_bucket.federation.id
  rule {
    id     = "tidy"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.federation.arn, "${aws_s3_bucket.federation.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "federation" {
  bucket     = aws_s3_bucket.federation.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.federation]
}

resource "aws_iam_user" "hub" {
  name = "fedrounds-hub"
}

data "aws_iam_policy_document" "hub" {
  statement {
    sid = "Objects"
    actions = [
      "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"
    ]
    resources = ["${aws_s3_bucket.federation.arn}/${var.prefix}*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.federation.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}*"]
    }
  }
}

resource "aws_iam_user_policy" "hub" {
  name   = "fedrounds"
  user   = aws_iam_user.hub.name
  policy = data.aws_iam_policy_document.hub.json
}

resource "aws_iam_user" "site" {
  for_each = var.sites
  name     = "fedrounds-${each.key}"
}

data "aws_iam_policy_document" "site" {
  for_each = var.sites
  statement {
    sid     = "Read"
    actions = ["s3:GetObject"]
    resources = [
      "${aws_s3_bucket.federation.arn}/${var.prefix}shared/*",
      "${aws_s3_bucket.federation.arn}/${var.prefix}sites/${each.key}/*"
    ]
  }
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.federation.arn}/${var.prefix}sites/${each.key}/out/*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.federation.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}shared/*", "${var.prefix}sites/${each.key}/*"]
    }
  }
}

resource "aws_iam_user_policy" "site" {
  for_each = var.sites
  name     = "fedrounds"
  user     = aws_iam_user.site[each.key].name
  policy   = data.aws_iam_policy_document.site[each.key].json
}
