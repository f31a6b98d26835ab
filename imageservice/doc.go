// Package imageservice is the node's image store: it pulls, loads, saves, pushes,
// lists and removes images, and gives containers writable layers on them.
//
// The model. An image is a config and a stack of layers; names lead to it. A
// layer is kept unpacked, in a directory that overlayfs takes, and is shared
// by all images and containers that have it. Its blob is not kept, unless
// Config.KeepBlobs says so: it is verified, decompressed, verified again and
// unpacked in one stream, side by side with the others; on the way a record is
// made that gives the exact tar again from the unpacked files (see package
// tarsplit). A layer is found by its diff ID; one that is right only on top of
// certain others (see package unpack) by its chain ID. A container's snapshot
// is a row that keeps the image's layers, with a directory for what the
// container writes; an image volume's is one to which nobody writes.
//
// An artifact is files instead of a container's root: its manifest has some
// other config than an image's. It is an image here, pulled, listed, verified
// and removed as all are, with its manifest in place of the config, since most
// artifacts share the empty one: its id is the digest of the manifest. Each of
// its blobs is a layer: one file, by its title if that can be the name of a
// file that hides no other, else by its digest; or what is in it, if it is a
// tar, whose blob is kept too. So it goes out as it came, to the byte. It can
// be mounted and not run. See package manifest for the rules.
//
//	Root/meta.db            rows; see package meta
//	Root/blobs/sha256/HEX   configs, manifests, indexes; layers' blobs that are kept
//	Root/l/N/fs             layer N; N.tmp while it is unpacked
//	Root/l/N/inventory      what is in there; see package inventory
//	Root/l/N/tar-split.json.gz  what its tar had beside the files; see package tarsplit
//	Root/s/CONTAINER/fs     what a container has written
//	Root/s/CONTAINER/work   overlayfs' own
//	Root/ingest/            what was received of layers under way; dropped when it is of no use, or cheap to get
//	Root/spool/             archives being loaded, saved or pushed
//	Root/b/BUILD/           what a build under way has mounted and received
//	Root/c/CACHE/           what commands of builds keep for later ones (RUN --mount=type=cache)
//	Root/empty/             stands for the layers of an image that has none
//
// The laws.
//
// A row is the truth. The rows of an image come in one transaction, after its
// layers were made durable by one syncfs; until then a crash leaves only
// directories that no row names, which Open removes. A snapshot's row comes
// before its directories and goes after them.
//
// What is asked for at the same time is fetched once: equal pulls are one
// pull, and a layer on its way is one flight, which all who need it share and
// which ends when the last of them is gone.
//
// A layer is trusted because its rows came after its data. After a crash of the
// machine, which may break that promise of the disk's, layers that came since
// the store was last closed are compared with their inventories before a
// container starts on them. A broken one is quarantined and fetched again, as
// a new layer in its place, since what is mounted must not change.
//
// What an image has is repaired from where it came: a layer that is broken or
// gone, what makes its tar again, a blob. A start repairs what it needs by
// itself, without anybody's credentials, since none are stored.
//
// A build (see package build) writes each layer when it has it, with a row that
// says by which step; a later build finds it there. Such a row keeps its layer
// until Prune, or until there are more than Config.BuildCache allows.
//
// A layer lives while an image, a snapshot, a step of a build or a running
// install has it. What removes the last of these frees the layer before it
// returns. Before and after each step of what changes the store the crash test
// kills the daemon; see StepNames.
//
// List, Status, Usage and Snapshots read an immutable view and never wait.
// Usage is accounted when a layer is committed, with all that lies beside it,
// never walked.
package imageservice
