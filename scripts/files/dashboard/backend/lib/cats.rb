# frozen_string_literal: true

require "pg"

# The cats as the database knows them. Each question has a connection of its own, so that a restarted database
# is met by the next question; the server's threads bound how many there are.
class Cats
  SNAPSHOT = <<~SQL
    SELECT json_build_object('at', now(), 'cats', coalesce(json_agg(cats ORDER BY id), '[]'::json)) FROM cats
  SQL

  def initialize(url)
    @url = url
  end

  def count
    connected { |connection| Integer(connection.exec("SELECT count(*) FROM cats").getvalue(0, 0)) }
  end

  # JSON, made by the database.
  def snapshot
    connected { |connection| snapshot_of(connection) }
  end

  # Yields a snapshot now, on each change, and whenever so many seconds went by without one. Never returns.
  def follow(seconds)
    connected do |connection|
      connection.exec("LISTEN cats")
      loop do
        yield snapshot_of(connection)
        connection.wait_for_notify(seconds)
        nil while connection.notifies
      end
    end
  end

  private

  def snapshot_of(connection)
    connection.exec(SNAPSHOT).getvalue(0, 0)
  end

  def connected
    connection = PG.connect(@url, connect_timeout: 3, application_name: "kimonokittens",
                                  options: "-c statement_timeout=5s")
    yield connection
  ensure
    connection&.close
  end
end
