# frozen_string_literal: true

require "json"

# Notes that an update is wanted: on standard output, and as a line of updates.jsonl where a directory was given.
# The file is opened for each line, so that it can be rotated.
class Record
  def initialize(directory)
    @file = File.join(directory, "updates.jsonl") unless directory.to_s.empty?
  end

  def write(deliveries)
    line = JSON.generate({ at: Time.now.utc.strftime("%FT%TZ"), deliveries: deliveries })
    puts "webhook: update wanted #{line}"
    File.open(@file, "a", 0o640) { |file| file.puts(line) } if @file
  rescue SystemCallError => e
    warn "webhook: #{e.message}"
  end
end
