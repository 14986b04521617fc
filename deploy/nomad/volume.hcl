# nomad volume create volume.hcl
id        = "postgres"
name      = "postgres"
type      = "csi"
plugin_id = "csi.cvol.io"

capacity_min = "10GiB"
capacity_max = "20GiB"

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}

mount_options {
  fs_type     = "ext4"
  mount_flags = ["noatime"]
}

parameters {
  replicas  = "3"
  minInSync = "2"
}
