-- What a SQLite store holds. `user_version` counts the shapes this file has had; sqlite.py knows
-- which it can read. Offsets are stream offsets, in bytes; times are nanoseconds since 1970.

-- The store's identity, made at random with it.
CREATE TABLE identity (store_id TEXT NOT NULL);

-- One row a stream: what it is, how far it goes, and what can be said without its records.
CREATE TABLE stream (
  id INTEGER PRIMARY KEY,
  session TEXT NOT NULL UNIQUE,
  kind INTEGER NOT NULL,            -- plaitwire.v1.StreamKind
  project TEXT NOT NULL,
  run TEXT NOT NULL,
  label TEXT NOT NULL,
  parent TEXT NOT NULL,
  restart_count INTEGER NOT NULL,
  started_ns INTEGER NOT NULL,
  host TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  pid INTEGER NOT NULL,
  is_primary INTEGER NOT NULL,
  group_name TEXT NOT NULL,
  extra_json TEXT NOT NULL,
  next_offset INTEGER NOT NULL DEFAULT 0,
  segment_base INTEGER NOT NULL DEFAULT 0,  -- of the last bytes
  proof_offset INTEGER,             -- the last frame: from here to next_offset
  proof_crc32c INTEGER,
  rows INTEGER NOT NULL DEFAULT 0,
  floating_max INTEGER,             -- plait_collector.steps.Steps
  anchored_max INTEGER,
  last_ns INTEGER NOT NULL DEFAULT 0,
  finish_state TEXT,                -- the last finish record
  finish_exit_code INTEGER,
  finish_by TEXT
);
CREATE INDEX stream_of_run ON stream (project, run, kind, started_ns, group_name);

-- Records as they came: whole ones, of one segment a row.
CREATE TABLE tail (
  stream INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  segment_base INTEGER NOT NULL,
  payload BLOB NOT NULL
);
CREATE UNIQUE INDEX tail_in_order ON tail (stream, "offset");

-- Records that are no rows, so that they are found without reading the tail.
CREATE TABLE record (
  stream INTEGER NOT NULL,
  kind INTEGER NOT NULL,            -- plaitwire.records.Kind
  "offset" INTEGER NOT NULL,
  segment_base INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  schema_id INTEGER NOT NULL,
  step INTEGER NOT NULL,
  time_ns INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (stream, kind, "offset")
) WITHOUT ROWID;

-- What was lost: bytes (is_skip), or records that never got any.
CREATE TABLE gap (
  stream INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  "end" INTEGER NOT NULL,
  is_skip INTEGER NOT NULL,
  reason TEXT NOT NULL,             -- a plaitwire.v1.GapReason's word
  records INTEGER,
  total INTEGER,
  message TEXT NOT NULL,
  floating_max INTEGER,             -- of the rows before it
  anchored_max INTEGER,
  rows INTEGER NOT NULL,
  PRIMARY KEY (stream, "offset", "end", is_skip)
) WITHOUT ROWID;

-- Tombstones: these never come back.
CREATE TABLE deleted_run (
  project TEXT NOT NULL,
  run TEXT NOT NULL,
  PRIMARY KEY (project, run)
) WITHOUT ROWID;
CREATE TABLE deleted_session (session TEXT PRIMARY KEY) WITHOUT ROWID;
