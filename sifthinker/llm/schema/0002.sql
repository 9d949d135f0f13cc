-- Whose batch it is: only one of the engines of an account collects it, or orders it again. '' is nobody's.

ALTER TABLE batches ADD COLUMN owner text NOT NULL DEFAULT '';
