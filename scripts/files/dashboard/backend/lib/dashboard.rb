# frozen_string_literal: true

# The Rack application: what the page asks for.
class Dashboard
  SOCKETS = ["/ws", "/dashboard/ws"].freeze

  def initialize(cats, live)
    @cats = cats
    @live = live
  end

  def call(env)
    path = env["PATH_INFO"]
    return Service.json(404, { error: "nothing here" }) unless [*SOCKETS, "/api/cats", "/api/health"].include?(path)
    return only_get unless %w[GET HEAD].include?(env["REQUEST_METHOD"])

    case path
    when "/api/health" then health
    when "/api/cats" then cats
    else socket(env)
    end
  end

  private

  def health
    Service.json(200, { status: "ok", database: "ok", cats: @cats.count, live: !@live.nil? })
  rescue PG::ConnectionBad => e
    troubled(e, { status: "unavailable", database: "unreachable" })
  rescue PG::UndefinedTable => e
    troubled(e, { status: "unavailable", database: "not migrated" })
  rescue PG::Error => e
    troubled(e, { status: "unavailable", database: "error" })
  end

  def cats
    Service.json(200, @cats.snapshot)
  rescue PG::Error => e
    troubled(e, { error: "the database does not answer" })
  end

  # Why goes to the log, not to whoever asks.
  def troubled(error, body)
    warn "database: #{error.message.strip}"
    Service.json(503, body)
  end

  def socket(env)
    return Service.json(404, { error: "live updates are switched off" }) unless @live

    @live.welcome(env)
  end

  def only_get
    status, headers, body = Service.json(405, { error: "GET only" })
    [status, headers.merge("allow" => "GET, HEAD"), body]
  end
end
