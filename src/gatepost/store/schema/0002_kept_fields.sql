-- The fields that mail programs ask for in lists, as they stand in the header; NULL where they were not kept.
ALTER TABLE listing ADD COLUMN fields {OCTETS};
