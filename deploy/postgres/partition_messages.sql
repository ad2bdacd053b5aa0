-- Turns the table of messages into 16 hash partitions by channel. For databases with more messages than memory: each
-- partition has indexes of its own, which stay smaller, and is vacuumed by itself.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f partition_messages.sql
--
-- Publishing waits while it runs (publishers hear `unavailable` and publish again); a million messages take seconds. Twice
-- the table's space is needed meanwhile. Migrations of the platform go on as before: names of table and constraints stay.

BEGIN;
LOCK TABLE realtime_message IN ACCESS EXCLUSIVE MODE;

CREATE TABLE realtime_message_parts (LIKE realtime_message INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY HASH (channel_id);

DO $$ BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE realtime_message_%s PARTITION OF realtime_message_parts'
            ' FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part);
    END LOOP;
END $$;

INSERT INTO realtime_message_parts SELECT * FROM realtime_message;
DROP TABLE realtime_message;
ALTER TABLE realtime_message_parts RENAME TO realtime_message;
ALTER TABLE realtime_message ADD CONSTRAINT realtime_message_pkey PRIMARY KEY (channel_id, serial);
ALTER TABLE realtime_message ADD CONSTRAINT realtime_message_id_unique UNIQUE (channel_id, client, mid);
COMMIT;

ANALYZE realtime_message;
