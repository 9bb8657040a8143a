# frozen_string_literal: true

# The dashboard's backend: `ruby /path/to/backend/server.rb`, settings from the environment.

require_relative "../lib/service"
require_relative "lib/cats"
require_relative "lib/dashboard"
require_relative "lib/live"

url, = Service.settings("DATABASE_URL", "PORT", "ENABLE_BROADCASTER")
port = Service.number("PORT", Service::PORTS)
broadcaster = Service.number("ENABLE_BROADCASTER", 0..1)

cats = Cats.new(url)
live = Live.new(cats) if broadcaster == 1

live&.start
Service.serve(Dashboard.new(cats, live), port)
live&.stop
