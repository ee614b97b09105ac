variable "bucket" {
  description = "Name of the federation's bucket; made here."
  type        = string
}

variable "prefix" {
  description = "Where the federation's keys begin, empty or ending with a slash; as in the store's URL."
  type        = string
  default     = ""

  validation {
    condition     = var.prefix == "" || endswith(var.prefix, "/")
    error_message = "The prefix is empty or ends with a slash."
  }
}

variable "sites" {
  description = "Names of the sites, as in the study. Adding one touches no other."
  type        = set(string)

  validation {
    condition     = alltrue([for site in var.sites : can(regex("^[a-z0-9][a-z0-9_-]{0,62}$", site))])
    error_message = "A site's name has small letters, digits, - and _, 63 at most."
  }
}

variable "noncurrent_days" {
  description = "How long an overwritten or removed object can be brought back."
  type        = number
  default     = 30
}
