-- The cats of the dashboard, and the signal that one of them changed.
-- One statement, so that it is applied as a whole or not at all, however it is sent; a second time it does nothing.
DO $migration$
BEGIN
    IF to_regclass('public.cats') IS NOT NULL THEN
        RAISE NOTICE 'table cats exists, nothing to do';
        RETURN;
    END IF;

    CREATE TABLE public.cats (
        id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name   text        NOT NULL UNIQUE CHECK (name <> ''),
        coat   text        NOT NULL,
        kimono text        NOT NULL,
        spot   text        NOT NULL,
        asleep boolean     NOT NULL,
        since  timestamptz NOT NULL DEFAULT now(),
        treats integer     NOT NULL DEFAULT 0 CHECK (treats >= 0)
    );

    CREATE FUNCTION public.cats_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
    BEGIN
        NOTIFY cats;
        RETURN NULL;
    END
    $function$;

    CREATE TRIGGER cats_changed AFTER INSERT OR UPDATE OR DELETE ON public.cats
        FOR EACH STATEMENT EXECUTE FUNCTION public.cats_changed();

    INSERT INTO public.cats (name, coat, kimono, spot, asleep, since, treats) VALUES
        ('Mochi',  'cream',   'sakura',   'on the warm router',       true,  now() - interval '2 hours 14 minutes', 2),
        ('Sumi',   'ink',     'seigaiha', 'behind the bookshelf',     false, now() - interval '11 minutes',         4),
        ('Kinako', 'ginger',  'asanoha',  'in the sunny window',      true,  now() - interval '47 minutes',         1),
        ('Botan',  'calico',  'shippo',   'on somebody''s keyboard',  false, now() - interval '3 minutes',          5),
        ('Haiiro', 'grey',    'yagasuri', 'in the laundry basket',    true,  now() - interval '1 hour 32 minutes',  0),
        ('Taro',   'tuxedo',  'kikko',    'waiting at the fridge',    false, now() - interval '26 minutes',         3);
END
$migration$;
