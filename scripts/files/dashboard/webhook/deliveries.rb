# frozen_string_literal: true

require "json"
require "openssl"

# The Rack application: lets in what was signed with the secret, and nothing else.
class Deliveries
  LARGEST = 1024 * 1024

  def initialize(secret, accepted)
    @secret = secret
    @accepted = accepted
  end

  def call(env)
    case [env["REQUEST_METHOD"], env["PATH_INFO"]]
    in ["GET" | "HEAD", "/health"] then answer(200, "OK")
    in ["POST", "/webhook"] then receive(env)
    in [_, "/webhook"] then answer(405, "POST only", "allow" => "POST")
    in [_, "/health"] then answer(405, "GET only", "allow" => "GET, HEAD")
    else answer(404, "nothing here")
    end
  end

  private

  def receive(env)
    body = env["rack.input"].read(LARGEST + 1) || ""
    return answer(413, "at most #{LARGEST} bytes") if body.bytesize > LARGEST

    unless signed?(body, env["HTTP_X_HUB_SIGNATURE_256"])
      puts "webhook: refused, not signed with the secret"
      return answer(401, "not signed with the secret")
    end

    @accepted << { event: named(env["HTTP_X_GITHUB_EVENT"]), delivery: named(env["HTTP_X_GITHUB_DELIVERY"]) }
    puts "webhook: accepted"
    answer(202, "accepted")
  end

  def signed?(body, signature)
    expected = "sha256=#{OpenSSL::HMAC.hexdigest("SHA256", @secret, body)}"
    OpenSSL.secure_compare(expected, signature.to_s)
  end

  # A header as it may stand in a log.
  def named(header)
    header && header.scrub("?")[0, 64].gsub(/[^\w.-]/, "?")
  end

  def answer(status, text, headers = {})
    [status, { "content-type" => "text/plain" }.merge(headers), [text]]
  end
end
