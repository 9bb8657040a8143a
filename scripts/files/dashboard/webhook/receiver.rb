# frozen_string_literal: true

# Takes signed webhooks: `ruby /path/to/webhook/receiver.rb`, settings from the environment.

require_relative "../lib/service"
require_relative "deliveries"
require_relative "debounce"
require_relative "record"

secret, = Service.settings("WEBHOOK_SECRET", "WEBHOOK_PORT", "WEBHOOK_DEBOUNCE_SECONDS")
port = Service.number("WEBHOOK_PORT", Service::PORTS)
seconds = Service.number("WEBHOOK_DEBOUNCE_SECONDS", 0..86_400)

record = Record.new(ENV["LOG_DIR"])
debounce = Debounce.new(seconds) { |deliveries| record.write(deliveries) }

Service.serve(Deliveries.new(secret, debounce), port)
debounce.finish
